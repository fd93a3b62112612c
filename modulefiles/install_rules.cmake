# What `cmake --install` puts under the prefix, and the target `uninstall`.  Included by the top CMakeLists.
#   bin/automodel                            finds share/automodel beside its bin, hence the fixed names
#   share/automodel/{configs,slurm}          recipes and model cards; batch scripts
#   share/doc/automodel, share/man/man1      documents; a manual page a command
#   share/modulefiles/automodel/VERSION      written when installing: it names the prefix (write_module.cmake)

set(AM_MODULE_PREREQ "" CACHE STRING "modules that the modulefile requires, a list: openmpi/4.1;hdf5/1.10")
foreach(module IN LISTS AM_MODULE_PREREQ)
  if(NOT module MATCHES "^[A-Za-z0-9_][A-Za-z0-9_./+-]*$")
    message(FATAL_ERROR "AM_MODULE_PREREQ: \"${module}\" is no name of a module; write NAME or NAME/VERSION, "
                        "more than one with ; between")
  endif()
endforeach()

# "Open MPI v4.1.4" of "Open MPI v4.1.4, package: …"
string(REGEX MATCH "^[A-Za-z0-9_.:+() -]+" AM_MPI_NAME "${MPI_C_LIBRARY_VERSION_STRING}")
string(STRIP "${AM_MPI_NAME}" AM_MPI_NAME)
if(NOT AM_MPI_NAME)
  set(AM_MPI_NAME "an MPI ${MPI_C_VERSION} library")
endif()

# The manual pages: automodel(1) and one for each X(name) in cli.h.
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS src/cli/cli.h)
file(READ src/cli/cli.h cli_h)
string(REGEX MATCHALL "X\\([a-z][a-z]+\\)" rows "${cli_h}")
set(pages "")
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/man)
foreach(row "" ${rows})
  string(REGEX REPLACE "X\\(([a-z]+)\\)" "\\1" command "${row}")
  set(page ${CMAKE_BINARY_DIR}/man/automodel.1)
  if(command)
    set(page ${CMAKE_BINARY_DIR}/man/automodel-${command}.1)
  endif()
  add_custom_command(OUTPUT ${page} COMMAND automodel --man ${command} > ${page} DEPENDS automodel VERBATIM
                     COMMENT "Manual page automodel ${command}")
  list(APPEND pages ${page})
endforeach()
add_custom_target(man ALL DEPENDS ${pages})

# First, since it refuses a prefix that does not fit into a module file before anything is copied.
install(CODE "set(AM_SOURCE_DIR [==[${CMAKE_SOURCE_DIR}]==])
set(AM_VERSION [==[${PROJECT_VERSION}]==])
set(AM_MPI_NAME [==[${AM_MPI_NAME}]==])
set(AM_MODULE_PREREQ [==[${AM_MODULE_PREREQ}]==])")
install(SCRIPT modulefiles/write_module.cmake)

install(TARGETS automodel RUNTIME DESTINATION bin)
install(DIRECTORY configs/ DESTINATION share/automodel/configs)
# Globbed when installing; a script is executable wherever it comes from.
install(DIRECTORY slurm/ DESTINATION share/automodel/slurm OPTIONAL FILES_MATCHING PATTERN "*.sh"
        PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
install(FILES README.md INSTALL LICENSE DESTINATION share/doc/automodel)
install(DIRECTORY docs/ DESTINATION share/doc/automodel/docs FILES_MATCHING PATTERN "*.md")
install(FILES ${pages} DESTINATION share/man/man1)

add_custom_target(uninstall COMMAND ${CMAKE_COMMAND} -DMANIFEST=${CMAKE_BINARY_DIR}/install_manifest.txt
                                    -P ${CMAKE_SOURCE_DIR}/modulefiles/uninstall.cmake VERBATIM)
